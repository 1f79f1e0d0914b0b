"""python -m stages.embed

Turns each distinct caption into token embeddings by the frozen text encoder: data/embed/multimodal/. What the teacher
without text reads lies beside it, nothing, so that new captions leave that teacher alone.
"""

import logging
import shutil

import numpy as np

from pipeline import captions, embeddings, paths
from pipeline.embedders import EMBEDDERS
from pipeline.params import Params
from pipeline.progress import progress
from pipeline.stage import code, run
from pipeline.work import Work, fingerprint, replacing, write_json

log = logging.getLogger(__name__)


def main(params: Params) -> None:
    embedder = EMBEDDERS.load(params.embedder)(params.embed)
    texts, of_window = embeddings.distinct(captions.texts(paths.CAPTIONS))
    lengths, limit = embedder.lengths(texts), params.embed.max_tokens
    cut = int((lengths > limit).sum())
    log.info("%d distinct captions of up to %d tokens; %d cut at %d", len(texts), lengths.max(), cut, limit)
    about = {"embedder": params.embedder, "model": embedder.name, "max_tokens": limit, "captions_cut": cut}
    about["captions"] = fingerprint([paths.CAPTIONS])
    with Work("embed", [paths.CAPTIONS], [about, params.embed], code("embed")) as work:
        folder = work.path("embeddings.zarr")
        embeddings.create(folder, np.minimum(lengths, limit), embedder.dimension, of_window, about)
        filling = embeddings.fill(folder, texts, embedder.embed, params.embed.batch_size)
        for _ in progress(filling, "embeddings", len(texts), "caption"):
            pass
        with replacing(paths.EMBEDDINGS) as temporary:
            shutil.move(folder, temporary)
    write_json(paths.NO_TEXT, None)


if __name__ == "__main__":
    run(main)
