"""The protocol: every loss tries the same candidates, and gets more seeds while a verdict is open.

The best candidate is chosen on validation alone, over all seeds; verdicts are read at declared
numbers of seeds.
"""

from lossbench.protocol.answer import Outline, RunsFailed, answer, outline
