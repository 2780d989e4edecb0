"""Which samples a step sees and how they get there: index, schedule, mixture, reader, statistics, loader."""
