"""What a plan should do before it is measured: memory, step time, communication, scaling, cost."""
