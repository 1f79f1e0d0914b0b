"""python -m stages.caption

Has the captioner describe each window's input frames: data/caption/captions.parquet. What it answered before is
taken from the log at `runtime.answers`. With `--preview N`, only N windows are captioned and put on a page,
.work/caption/preview.html, to look at before the rest is paid for.
"""

from pipeline import paths
from pipeline.answers import Answers
from pipeline.captioners import CAPTIONERS
from pipeline.captioning import Captioning
from pipeline.params import Params
from pipeline.preview import write as write_preview
from pipeline.stage import run
from pipeline.store import Store

NO_PREVIEW = -1  # 0 is a mistake, and must not caption all


def main(params: Params, preview: int = NO_PREVIEW) -> None:
    captioner = CAPTIONERS.load(params.captioner)(params.caption, params.seed, params.dataset)
    store = Store(paths.STORE)
    if preview != NO_PREVIEW:
        write_preview(paths.PREVIEW, store, captioner, preview)
        return
    with Answers(params.runtime.answers) as answers:
        Captioning(captioner, params.captioner, answers).write(paths.CAPTIONS, store)


if __name__ == "__main__":
    run(main)
