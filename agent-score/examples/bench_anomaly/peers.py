"""Scores of the series in a directory, by scikit-learn's IsolationForest and river's HalfSpaceTrees.

Both see the last eight values as one vector, as geophone's forest does. The forest is fitted to the clean beginning; the
half-space trees learn on. Where nothing was measured the last value stands.
"""
import pathlib
import sys
import time

import numpy
from river import anomaly, compose, preprocessing
from sklearn.ensemble import IsolationForest

CLEAN, LAGS = 15_000, 8
spent = {"iforest": 0.0, "hst": 0.0}
samples = 0
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.values")):
    values = numpy.fromfile(file, dtype="<f8")
    held = numpy.maximum.accumulate(numpy.where(numpy.isnan(values), 0, numpy.arange(len(values))))
    values = values[held]
    vectors = numpy.lib.stride_tricks.sliding_window_view(numpy.pad(values, (LAGS - 1, 0), mode="edge"), LAGS)
    samples += len(values)

    start = time.process_time()
    forest = IsolationForest(n_estimators=100, max_samples=256, random_state=1).fit(vectors[:CLEAN])
    scores = -forest.score_samples(vectors)
    spent["iforest"] += time.process_time() - start
    scores.astype("<f4").tofile(file.with_suffix(".iforest"))

    start = time.process_time()
    trees = compose.Pipeline(preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(n_trees=25, height=8, seed=1))
    scores = numpy.empty(len(values), dtype="<f4")
    for at, vector in enumerate(vectors):
        point = dict(enumerate(vector.tolist()))
        scores[at] = trees.score_one(point)
        trees.learn_one(point)
    spent["hst"] += time.process_time() - start
    scores.tofile(file.with_suffix(".hst"))
for name, seconds in spent.items():
    print(f"{name}: {seconds / samples * 1e6:.1f} µs a sample", flush=True)
