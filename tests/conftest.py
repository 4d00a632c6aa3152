"""What every test gets: no network, no telemetry, few threads, its own cache, and the shared data if it is there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SWITCHES = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OPENVINO_TELEMETRY_ENABLE": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "TOKENIZERS_PARALLELISM": "false",
    "KERAS_BACKEND": "torch",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# Before anything is imported, and for every process that tests start.
os.environ.update(SWITCHES)
for name in THREADS:
    value = os.environ.get(name, "2")
    alone = "PYTEST_XDIST_WORKER" not in os.environ  # workers share the cores: two threads each would only wait
    os.environ[name] = "2" if alone and value != "1" else "1"

collect_ignore = ["keras2/make.py", "saved_by_0_1/make.py"]  # a script for TensorFlow, which made the files beside it

settings.register_profile(
    "house",
    deadline=None,  # no timed tests: the machine is shared
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("house")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """``-n auto``: a worker for each core that may be used, eight at most (each holds torch: about 1 GB)."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_configure(config):
    """A cache folder for this session: tests neither see nor fill the user's."""
    config.headstart_cache = tempfile.mkdtemp(prefix="headstart-test-cache-")
    os.environ["HEADSTART_CACHE"] = config.headstart_cache


def pytest_unconfigure(config):
    shutil.rmtree(getattr(config, "headstart_cache", ""), ignore_errors=True)


def pytest_collection_modifyitems(items):
    """Slow tests come last, so that a quick failure shows quickly."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def shared_data() -> Path:
    """``$HEADSTART_SHARED/data``, else ``shared/data`` beside the repository."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared"
    return Path(os.environ.get("HEADSTART_SHARED") or beside) / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real photos, sounds, texts and weights; the test is skipped, with the reason, where it is absent."""
    data = shared_data()
    if not data.is_dir():
        pytest.skip(f"real data is not here: {data} (set HEADSTART_SHARED to the folder that holds data/)")
    return data


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache for one file of tests: precisions are chosen by measuring, once per cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
