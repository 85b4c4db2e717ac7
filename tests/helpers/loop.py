"""What tests of the training loop need around them."""

from contextlib import contextmanager

import torch
from accelerate.state import AcceleratorState, GradientState


def forget_accelerate():
    """Leave no process state of Accelerate's, as at the start of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@contextmanager
def a_process_of_its_own():
    """One thread for a block of code, and nothing of Accelerate's left after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    forget_accelerate()
