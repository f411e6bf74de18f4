"""Two ways to ask a Question: words of a command, which Hydra reads, and a file of losses."""

from lossbench.ask.compose import named, to_engine
from lossbench.ask.from_hydra import composed, question
from lossbench.ask.loader import SEARCH_PATH, Loader, open_hydra
from lossbench.ask.own_files import OF_FILE, with_names
from lossbench.ask.trust import check_folder
