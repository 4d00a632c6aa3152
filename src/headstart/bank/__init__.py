"""The bank: feature rows on disk by content key of the item, computed once and reused everywhere. Floor 1.

::

    store/
      keys/                      content keys of files that have not changed (KeyTable)
      3f9c…/                     one table per recipe: the folder is the recipe's fingerprint
        recipe.json
        <time>-<random>.safetensors    append-only shards: keys, check sums, rows

A row is looked up by *what the item is* (hash of its bytes) and *how the row was computed* (the recipe: source
fingerprint, layer, pooling, engine, precision, …). Neither a file's name nor its folder matters, so nothing stale is
ever returned.
"""

from headstart._base.typing import SkippedItem
from headstart.bank.bank import FeatureBank, Store
from headstart.bank.file_keys import KeyTable
from headstart.bank.table import MemoryStore, MemoryTable, Table

__all__ = [
    "FeatureBank",
    "KeyTable",
    "MemoryStore",
    "MemoryTable",
    "SkippedItem",
    "Store",
    "Table",
]
