"""Every arm trained, measured and measured again on a GPU that is simulated: no tensor may be on the wrong device."""

import contextlib
import io
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / 'tests'))  # the simulated device


class Device:
    """Trials: an arm each."""

    def __init__(self, folder):
        self.folder = folder

    def trial(self, number, tally):
        """The arm, and what a GPU would have refused."""
        import pytest

        from binenc.arms import ARMS
        from binenc.restored import measure_run
        from binenc.run import Run
        from binenc.training import train
        from simulated_device import simulated_device
        model = [*ARMS][number % len(ARMS)]
        run = replace(Run(epochs=1, width=8, train_images=80, batch_size=40, deepfool_images=5), model=model)
        place = self.folder / f'device-{number}'
        with pytest.MonkeyPatch.context() as patch, simulated_device(patch):
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    train(run, place)
                    measure_run(run, results_dir=place)
            except (RuntimeError, TypeError) as error:  # as CUDA raises them
                return model, [('tracebacks', str(error))]
        return model, []
