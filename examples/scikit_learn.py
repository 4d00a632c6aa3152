"""Inside scikit-learn: a grid search over heads, which extracts features once, and a pipeline on top of them.

python examples/scikit_learn.py
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import headstart as hs

rng = np.random.default_rng(0)
pictures = rng.integers(0, 120, (60, 24, 24, 3), dtype=np.uint8)
labels = np.repeat(["red", "green", "blue"], 20)
for channel, name in enumerate(("red", "green", "blue")):
    pictures[labels == name, :, :, channel] += 60

search = GridSearchCV(hs.TransferClassifier("fake:image"), {"head": ["ridge", "lda", "logistic"]}, cv=3)
search.fit(pictures, labels)
print("best head:", search.best_params_["head"], f"accuracy {search.best_score_:.3f}")

pipeline = make_pipeline(hs.FeatureExtractor("fake:image"), StandardScaler(), LogisticRegression())
print("a pipeline of one's own:", cross_val_score(pipeline, pictures, labels, cv=3).round(3))
