"""An exported student at work without PyTorch: forecasts of files, and of what a small HTTP server is sent."""
