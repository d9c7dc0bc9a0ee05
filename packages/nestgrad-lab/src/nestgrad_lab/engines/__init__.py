"""Training and tuning of the model in each framework, behind one interface."""

from nestgrad_lab.engines.engine import CARRIES as CARRIES
from nestgrad_lab.engines.engine import ENGINES as ENGINES
from nestgrad_lab.engines.engine import Carry as Carry
from nestgrad_lab.engines.engine import Engine as Engine
from nestgrad_lab.engines.engine import Inner as Inner
from nestgrad_lab.engines.engine import Plan as Plan
from nestgrad_lab.engines.engine import Report as Report
from nestgrad_lab.engines.engine import backend_named as backend_named
from nestgrad_lab.engines.engine import engine_for as engine_for
