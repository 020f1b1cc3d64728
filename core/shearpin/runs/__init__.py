"""Live executions: a run tree admits, waits, stops and records; everything else asks it to."""
