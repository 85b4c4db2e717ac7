"""Processes that are killed at a given write below a folder, as a power cut would end them."""

import os
import signal
import sys
import traceback

import torch

_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}


def killed_at(number, folder, work):
    """Run `work` in a forked process that kills itself before write `number` below `folder`, counted from 0.

    Returns:
        whether it came that far; False if it ended before, which must be well.
    """
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        left, below = number, str(folder)

        def hook(event, args):
            nonlocal left
            path = args[0] if args else ""
            writes = event in _WRITES or (event == "open" and isinstance(args[2], int) and args[2] & 3)
            if writes and isinstance(path, (str, os.PathLike)) and str(path).startswith(below):
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        sys.addaudithook(hook)
        code = 1
        try:
            work()
            code = 0
        except Exception:  # noqa: BLE001 (it is told by the exit code)
            traceback.print_exc(file=open(f"{folder}.error", "w"))  # noqa: SIM115
        finally:
            os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended == -signal.SIGKILL:
        return True
    if ended:
        raise AssertionError(open(f"{folder}.error").read())  # noqa: SIM115
    return False
