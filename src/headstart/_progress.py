"""The former home of :mod:`headstart._base.progress`: scripts outside this repository import ``listening`` from
here."""

from headstart._base.progress import listening as listening
