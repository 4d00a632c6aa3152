"""Trainings that test_distributed runs in one process and in two. As a script: all of them, in a launched process.

Each gives arrays: what must come out alike. Two processes draw dropout each for its own items, so nothing here has any.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import headstart as hs
import networks
import test_transcription as speech
from headstart._base.processes import is_main, local_shard, rank_and_world_size
from headstart.errors import HeadstartError
from headstart.sources import load_source
from headstart.sources.inputs.log_mel import PatchInput
from headstart.training import checkpoint, distributed
from headstart.training import loop as training
from headstart.training.checkpoint import ParameterGroup
from headstart.training.config import TrainingConfig
from headstart.training.loop import train

X, Y = (torch.from_numpy(part) for part in networks.separable(61))
HELD, HELD_Y = (torch.from_numpy(part) for part in networks.separable(40, seed=5))


class Net(nn.Module):
    """With a layer that no forward pass reaches: it must not even decay."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.unreached = nn.Linear(8, 16), nn.Linear(16, 3), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def begun(count=61):
    net = networks.seeded(Net)

    def loss(indices, _):
        where = torch.from_numpy(local_shard(indices)) % count
        return nn.functional.cross_entropy(net(X[where]), Y[where])

    def score():
        with torch.no_grad():
            return -float(nn.functional.cross_entropy(net(HELD), HELD_Y))

    return net, loss, score


def ran(net, history):
    numbers = {"loss": history.loss, "score": history.score, "lr": history.lr, "best": history.best}
    state = {name: tensor.detach().numpy().copy() for name, tensor in net.state_dict().items()}
    return {**{k: np.array(v) for k, v in numbers.items()}, **state}


def loop(_folder):
    """Batches of 16 and 15 items, an average, a group that starts later, validation."""
    net, loss, score = begun()
    named = dict(net.named_parameters())
    late = {name: named.pop(name) for name in list(named) if name.startswith("a.")}
    config = TrainingConfig(epochs=6, batch_size=16, lr=0.02, ema=0.5, weight_decay=0.1)
    groups = [ParameterGroup(late, lr_scale=0.5, start_epoch=2), ParameterGroup(named)]
    return ran(net, train(groups, loss, 61, config=config, validate_score=score))


def fewer_items_than_processes(_folder):
    net, loss, _ = begun(3)
    config = TrainingConfig(epochs=4, batch_size=1, lr=0.02)
    return ran(net, train([ParameterGroup(dict(net.named_parameters()))], loss, 3, config=config))


def early_stop(_folder):
    """What the first process scores decides, whatever another one's clock, card or library makes of it."""
    net, loss, _ = begun()
    scripted = iter([1, 2, 1, 1, 1, 1] if is_main() else [1, 2, 3, 4, 5, 6])
    config = TrainingConfig(epochs=6, batch_size=16, patience=2)
    groups = [ParameterGroup(dict(net.named_parameters()))]
    return ran(net, train(groups, loss, 61, config=config, validate_score=lambda: float(next(scripted))))


def budget(_folder):
    """The clock of the first process counts for all."""
    net, loss, _ = begun()
    real, now = training.time.perf_counter, [0.0]

    def timed(indices, generator):
        now[0] += 1.0 if is_main() else 7.0
        return loss(indices, generator)

    training.time.perf_counter = lambda: now[0]
    try:
        config = TrainingConfig(epochs=50, batch_size=16, budget=30.0)
        history = train([ParameterGroup(dict(net.named_parameters()))], timed, 61, config=config)
    finally:
        training.time.perf_counter = real
    return {**ran(net, history), "seconds": np.array(history.epoch_seconds)}


def resumed(folder):
    """Killed after two epochs and taken up again equals the run without a kill."""
    result = []
    for kill in (None, 2, None):
        net, loss, score = begun()
        left = [kill]

        def watched(score=score, left=left):
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return score()

        try:
            path = None if not result else folder / "checkpoint"
            options = {"validate_score": watched, "checkpoint": path}
            groups = [ParameterGroup(dict(net.named_parameters()))]
            result.append(ran(net, train(groups, loss, 61, config=TrainingConfig(epochs=4, batch_size=16), **options)))
        except KeyboardInterrupt:
            result.append({})
    full, killed, again = result
    assert not killed
    assert all(np.array_equal(full[name], again[name]) for name in full)
    return again


def fitted(folder, policy, *, source=None, data=None, guard=False, layers="relu3", **how):
    source = source or load_source("cnn:small", size=(20, 20), channels=3, classes=3)
    predictor = hs.fit(
        source, data or networks.picture_data(34, side=20), policy=policy, guard=guard, layers=layers,
        head="logistic", precision="fp32", engine="torch", store=folder / "store", **how,
    )  # fmt: skip
    answer, history = predictor.targets[0], predictor.history
    state = {k: v.numpy().copy() for k, v in predictor.sources[0].module.state_dict().items()}
    out = {"coef": answer.head.coef_, "intercept": answer.head.intercept_, "loss": np.array(history["loss"])}
    out["score"] = np.array([*history["score"], *history["scores"].values()])
    return predictor, {**state, **out}


def of_policy(name, **fields):
    def case(folder):
        fields_all = {"epochs": 3, "batch_size": 7, "lr": 0.003, "precision": "fp32", **fields}
        return fitted(folder, hs.policy(name, **fields_all))[1]

    return case


def normed(name, **fields):
    """Batch normalisation, whose statistics stay those that the weights were trained with."""

    def case(folder):
        source = networks.image_source(networks.Normed, side=20, classifier="classifier")
        for module in source.module.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        options = {"epochs": 3, "batch_size": 7, "lr": 0.003, "precision": "fp32", **fields}
        return fitted(folder, hs.policy(name, **options), source=source, layers="blocks.3")[1]

    return case


def guarded(folder):
    """The whole job: items held out, the best kept, trained again on all of them, saved by one of the processes."""
    X, y = networks.separable(80, classes=4, d=8, seed=3)
    source = networks.vector_source(networks.Dense)
    policy = hs.policy("full", epochs=4, batch_size=9, lr=0.02)
    options = {"source": source, "data": hs.Dataset.from_arrays(X, y), "layers": "c", "guard": True}
    predictor, out = fitted(folder, policy, checkpoint=folder / "run", **options)
    path = predictor.save(folder / "saved.headstart")
    distributed.run_on_all(lambda: None)
    loaded = hs.load(path, sources=[predictor.sources[0]])
    return {**out, "kept": np.array(predictor.history["kept"] == "tuned"), "proba": loaded.predict_proba(X)}


def pretrained(folder):
    """Batch statistics are of each process's own items: the result is not that of one process, but one for all."""
    source = networks.image_source(networks.Normed, side=20, classifier="classifier")
    data = networks.picture_data(34, side=20, classes=4)
    result = hs.pretrain(source, data, epochs=2, batch_size=8)
    return {name: tensor.numpy() for name, tensor in result.module.state_dict().items()}


def pretrained_without(_folder):
    """Without batch statistics it is that of one process."""
    result = hs.pretrain("cnn", networks.picture_data(35, side=20), epochs=2, batch_size=8)
    return {
        "loss": result.meta["loss"],
        **{name: tensor.numpy() for name, tensor in result.module.state_dict().items()},
    }


def transcribed(folder):
    """A head that is trained on sequences, chosen on held-out clips; neither knows that there are others."""
    source = hs.Source.from_module(
        networks.seeded(speech.Pooled), preprocess=PatchInput(speech.MEL, max_patches=40), modality="audio"
    )
    head = hs.ctc("bilstm", hidden=8, width=12, epochs=2, lr=1e-2, batch_size=5, dropout=0.0)
    options = {"layers": ["fine", "coarse"], "head": head, "store": folder / "store", "precision": "fp32"}
    predictor = hs.fit(source, speech.spoken_data(40), **options)
    return {"loss": predictor.history["loss"], "layer": len(predictor.layers[0]), **predictor.targets[0].state()}


def with_dropout(folder):
    source = networks.image_source(networks.Normed, side=20, classifier="classifier")
    policy = hs.policy("last_layers", layers=2, epochs=2, batch_size=7, mixup=0.2, precision="fp32")
    return fitted(folder, policy, source=source, layers="blocks.3")[1]


SAME = {
    "loop": loop,
    "fewer items than processes": fewer_items_than_processes,
    "early stop": early_stop,
    "budget": budget,
    "resumed": resumed,
    "last_layers, cached, views": of_policy("last_layers", layers=1, views=3, cache=True),
    "last_layers, in full": of_policy("last_layers", layers=1, views=2, cache=False, l2sp=0.1),
    "full": of_policy("full", views=1, label_smoothing=0.1, ema=0.5),
    "gradual": of_policy("gradual", layers=2, every=1, views=2),
    "bias_only": of_policy("bias_only", views=1),
    "lora": of_policy("lora", views=1),
    "range test": of_policy("last_layers", layers=1, views=1, lr="auto"),
    "norm_only": normed("norm_only", views=1),
    "last_layers above batch normalisation": normed("last_layers", layers=2, views=2),
    "guarded": guarded,
    "pretrained without batch statistics": pretrained_without,
    "transcribed": transcribed,
}
OWN = {"pretrained": pretrained, "dropout and mixup": with_dropout}


def refused(work):
    """What each process says when some of them fail."""
    try:
        work()
    except (HeadstartError, ZeroDivisionError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def failures(folder):
    """name → what is tried; the processes must agree that it fails, and go on together afterwards."""
    net, loss, score = begun()
    groups = [ParameterGroup(dict(net.named_parameters()))]
    calls = []

    def broken(value):
        def bad(indices, generator):
            calls.append(1)
            return loss(indices, generator) * (value() if not is_main() and len(calls) == 3 else 1.0)

        return bad

    def bad_score():
        return score() if is_main() else 1 / 0

    def trained(loss=loss, seed=0, **how):
        def work():
            calls.clear()
            return train(groups, loss, 61, config=TrainingConfig(epochs=2, batch_size=16, seed=seed), **how)

        return work

    return {
        "an error in a step": trained(broken(lambda: 1 / 0)),
        "a loss that is no number": trained(broken(lambda: float("nan"))),
        "an error in validation": trained(validate_score=bad_score),
        "other settings": trained(seed=rank_and_world_size()[0]),
        "a checkpoint that cannot be written": trained(checkpoint=folder if is_main() else folder / "x"),
        "prove": lambda: hs.prove("fake:vector", hs.Dataset.from_arrays(X.numpy(), Y.numpy())),
    }


def results(folder, cases):
    """name/array → array, of all cases, each with a folder of its own."""
    result = {}
    for name, case in cases.items():
        path = folder / name.replace(" ", "-").replace(",", "")
        for key, value in case(path).items():
            result[f"{name}/{key}"] = np.asarray(value)
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    saves = []
    real = checkpoint.save
    checkpoint.save = lambda *a: (saves.append(1), real(*a))
    np.savez(folder / f"of-{rank_and_world_size()[0]}.npz", **results(folder, {**SAME, **OWN}), saves=len(saves))
    said = [f"{name}: {refused(work)}" for name, work in failures(folder).items()]
    (folder / f"said-{rank_and_world_size()[0]}.txt").write_text("\n".join(said))
