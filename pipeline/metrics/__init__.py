"""Metrics by name."""

from pipeline.registry import Registry

METRICS = Registry(
    "metric",
    {
        "mse": "pipeline.metrics.mse:MSE",
        "mae": "pipeline.metrics.mae:MAE",
        "ssim": "pipeline.metrics.ssim:SSIM",
        "rmse": "pipeline.metrics.rmse:RMSE",
        "acc": "pipeline.metrics.acc:ACC",
        "mse_openstl": "pipeline.metrics.mse_openstl:MSEOpenSTL",
        "mae_openstl": "pipeline.metrics.mae_openstl:MAEOpenSTL",
    },
)
