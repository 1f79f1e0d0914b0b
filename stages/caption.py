"""python -m stages.caption

Has the captioner describe each window's input frames: data/caption/captions.parquet.
"""

from pipeline import captions, paths
from pipeline.captioners import CAPTIONERS
from pipeline.captioning import Captioning
from pipeline.params import Params
from pipeline.stage import run
from pipeline.store import Store
from pipeline.work import Work


def main(params: Params) -> None:
    captioner = CAPTIONERS.load(params.captioner)(params.caption, params.seed)
    settings = params.caption.model_dump(exclude={"max_failed_share"})  # it decides no caption
    chosen = {"captioner": params.captioner, "model": captioner.model, "prompt": captioner.prompt}
    chosen |= {"settings": settings, "seed": params.seed}
    code = ["pipeline.captioning", "pipeline.captions", type(captioner).__module__]
    with Work("caption", inputs=[paths.STORE], params=chosen, code=code) as work:
        tables = Captioning(captioner, params.captioner, work).tables(Store(paths.STORE))
        captions.write(paths.CAPTIONS, tables)


if __name__ == "__main__":
    run(main)
