"""What `make clean` does before it deletes files: end the stack of this folder's home, and remove the home with its database.

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
