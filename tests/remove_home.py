"""Stop the stack of this directory's home, and remove the home with its database; `make clean` runs this before it deletes files.

python -m tests.remove_home
"""

from __future__ import annotations

from userhooks.settings import Settings
from userhooks.stack.control import down
from userhooks.stack.home import Home

if __name__ == "__main__":
    home = Home(Settings.from_env().home)
    down(home)
    home.remove()
