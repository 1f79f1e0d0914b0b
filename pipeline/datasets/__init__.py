"""Data sets by name."""

from pipeline.registry import Registry

DATASETS = Registry(
    "dataset",
    {
        "weather_twin": "pipeline.datasets.weather_twin:WeatherTwin",
        "traffic_twin": "pipeline.datasets.traffic_twin:TrafficTwin",
        "fire_twin": "pipeline.datasets.fire_twin:FireTwin",
        "weatherbench": "pipeline.datasets.weatherbench:WeatherBench",
        "weatherbench2": "pipeline.datasets.weatherbench2:WeatherBench2",
        "taxibj": "pipeline.datasets.taxibj:TaxiBJ",
        "taxibj_plus": "pipeline.datasets.taxibj_plus:TaxiBJPlus",
        "prometheus": "pipeline.datasets.prometheus:Prometheus",
        "xarray": "pipeline.datasets.xarray:XarraySource",
    },
)
