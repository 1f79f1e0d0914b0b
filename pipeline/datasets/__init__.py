"""Data sets by name."""

from pipeline.registry import Registry

DATASETS = Registry(
    "dataset",
    {
        "weather_twin": "pipeline.datasets.weather_twin:WeatherTwin",
        "weatherbench": "pipeline.datasets.weatherbench:WeatherBench",
        "xarray": "pipeline.datasets.xarray:XarraySource",
    },
)
