"""prove(): was the transfer worth anything? Against scratch, random weights and raw features, on your data. Floor 7.

Five methods are trained on the same draws of k examples per class and evaluated on the same locked test set:

=============  =====================================================================
raw            pixels, counted words or log-mel energies, and a solved head
random         the source's architecture with random weights, and a solved head
scratch        the same architecture trained from scratch, at a learning rate chosen
               on its own training items
frozen         the source's features, and a solved head
fine-tuned     that, and weights moved, where it helps on items held out
=============  =====================================================================

The last two use what the source has learned. Training from scratch and fine-tuning get the same time.
"""

from headstart.proof.prove import prove

__all__ = ["prove"]
