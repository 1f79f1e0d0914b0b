"""The library behind the stages: Semantic-Spectral Knowledge Distillation for gridded forecasts."""
