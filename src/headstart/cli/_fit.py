"""``headstart fit``: the main job."""
