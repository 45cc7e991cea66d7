"""The rendering and encoding of a corpus as a Ray Data plan: the same shards on a cluster.

Owns the plan and the session. What a shard is and how it is made is encoding.py's, so the files are the same bytes.

Decisions
- Two stages: tasks that read, tokenize and draw a stretch of shards, one shard at a time, and actors with the tower in
  memory that encode a shard and write it. Only drawn pages travel; features go straight to the folder, which all
  machines must see under the same path, as they must the corpus.
- A shard travels as one block: Ray then moves on after each, and its back-pressure counts in shards.
- Shards are written beside and renamed and are the same each time, so Ray may carry out a task again.
- A cluster is taken where `RAY_ADDRESS` names one or a session is open already; else this machine is one, with an
  object store that is no larger than the plan needs, and it is shut down afterwards.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from vist.errors import VistError
from vist.train.encoding import (
    DrawnShard,
    EncodingPlan,
    Records,
    ShardEncoder,
    Stretch,
    default_workers,
    device_of,
    draw_shards,
)

DRAW_CPUS, ENCODE_CPUS = 0.25, 0.5  # drawing is much the cheaper; together they leave room for each other on one core
STORE_BYTES = 200_000_000  # of a session of our own, and a quarter of it for each encoder
BLOCK_BYTES = 1  # less than a row has, so every shard is a block of its own

Batch = dict[str, np.ndarray]


def encode_on_ray(plan: EncodingPlan, stretches: list[Stretch], workers: int | None) -> Records:
    """The records of all shards, as they are finished, from `workers` encoders; None = all the cluster has room for.

    Raises VistError when Ray is not installed, has fewer GPUs than encoders, or gives up.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise VistError("A Ray Data plan needs Ray: pip install 'vist[ray]'.") from error
    with _session(workers or default_workers()):
        encoders, gpus = _encoders(ray.cluster_resources(), workers)
        context = ray.data.DataContext.get_current()
        context.target_max_block_size = BLOCK_BYTES
        context.enable_progress_bars = False  # encoding.py counts the shards
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        items = [{"stretch": pickle.dumps(stretch)} for stretch in stretches]
        work: Any = ray.data.from_items(items, override_num_blocks=len(items))
        drawn = work.map_batches(
            _draw, batch_size=1, batch_format="numpy", num_cpus=DRAW_CPUS, fn_kwargs={"plan": plan}
        )
        finished = drawn.map_batches(
            _Encode,
            batch_size=1,
            batch_format="numpy",
            num_cpus=ENCODE_CPUS,
            num_gpus=gpus,
            compute=ray.data.ActorPoolStrategy(size=encoders),
            fn_constructor_kwargs={"plan": plan},
        )
        try:
            yield from (pickle.loads(row["record"]) for row in finished.iter_rows())
        except ray.exceptions.RayError as error:
            said = str(error).splitlines()[0]
            raise VistError(
                f"Ray gave up ({said}); the finished shards are whole; run the same command again."
            ) from error


def _encoders(resources: dict[str, float], workers: int | None) -> tuple[int, int | None]:
    """How many encoders a cluster carries, and the GPUs of each: one where it has GPUs."""
    gpus = int(resources.get("GPU", 0))
    if not gpus:
        return workers or max(1, int(resources.get("CPU", 1))), None
    if workers is not None and workers > gpus:
        raise VistError(f"The cluster has {gpus} GPUs for {workers} encoders; lower --workers or leave it out.")
    return workers or gpus, 1


def _draw(batch: Batch, plan: EncodingPlan) -> Iterator[Batch]:
    """Stretches -> their drawn shards, one by one; or the sentence that ends the run."""
    for stretch in batch["stretch"]:
        try:
            for drawn in draw_shards(plan, pickle.loads(stretch)):
                yield {"drawn": _one(drawn)}
        except VistError as error:  # across processes an exception would lose its sentence
            yield {"drawn": _one({"error": str(error)})}


class _Encode:
    """Drawn shards -> records; one tower in memory."""

    def __init__(self, plan: EncodingPlan):
        self.encoder = ShardEncoder(plan, device_of(0))  # Ray shows an actor its own GPU alone

    def __call__(self, batch: Batch) -> Batch:
        (shard,) = (pickle.loads(value) for value in batch["drawn"])
        return {"record": _one(self.encoder.write(shard) if isinstance(shard, DrawnShard) else shard)}


def _one(value: Any) -> np.ndarray:
    """A column of one row, as bytes: pages of shards differ in number."""
    column = np.empty(1, dtype=object)
    column[0] = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return column


@contextmanager
def _session(workers: int) -> Iterator[None]:
    """The session that is open, the cluster of RAY_ADDRESS, or one of our own on this machine."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    own: dict[str, Any] = {
        "num_cpus": workers,
        "object_store_memory": STORE_BYTES * (4 + workers) // 4,
        "include_dashboard": False,
    }
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if os.environ.get("RAY_ADDRESS") else own))
    try:
        yield
    finally:
        ray.shutdown()
