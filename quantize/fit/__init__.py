"""Choose the type of each matrix so that a file of a given size has the smallest possible loss.

>>> from quantize.fit import Fit, MeasureOptions
>>> fit = Fit(Path("codegen-f16.gguf"), Path("codegen-imatrix.gguf"))  # doctest: +SKIP
>>> found = fit.measure(room := 3 * 2**30, MeasureOptions(text, seconds=300))  # doctest: +SKIP
>>> fit.write(fit.allocate(room, found), Path("codegen-3gib.gguf"))  # doctest: +SKIP
"""

from quantize.fit.device_fit import DeviceFit
from quantize.fit.device_limits import DeviceLimits
from quantize.fit.fitting import Allocation, Fit
from quantize.fit.sensitivity import MeasureOptions, RoundingSensitivity
from quantize.fit.units import CANDIDATES

__all__ = [
    "CANDIDATES", "Allocation", "DeviceFit", "DeviceLimits", "Fit", "MeasureOptions", "RoundingSensitivity",
]  # fmt: skip
