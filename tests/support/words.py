"""Real texts with labels: the words of a lexicon that the package textblob brings."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pandas

LABELS = ["negative", "neutral", "positive"]


def labelled_words() -> pandas.DataFrame:
    """English words (`form`) with their meaning (`sense`) and the feeling in them (`label`).

    The lexicon is by Tom De Smedt and Walter Daelemans; its licence is PDDL. The order is random,
    and the same each time.
    """
    spec = find_spec("textblob")
    assert spec is not None
    [folder] = spec.submodule_search_locations or [""]
    root = ElementTree.parse(Path(folder) / "en" / "en-sentiment.xml").getroot()
    words = pandas.DataFrame([word.attrib for word in root])
    words["label"] = pandas.cut(words["polarity"].astype(float), [-2, -0.1, 0.1, 2], labels=LABELS)
    words = words[words["sense"].str.len().between(10, 60)].drop_duplicates("form")
    return words[["form", "sense", "label"]].sample(frac=1, random_state=1)
