"""Work traced once and replayed: what depends on Python is keyed or refused, what depends on tensors is an input."""

from nestgrad_torch._compile.programs import CompiledProgram as CompiledProgram
from nestgrad_torch._compile.programs import Programs as Programs
from nestgrad_torch._compile.programs import compiled_programs as compiled_programs
