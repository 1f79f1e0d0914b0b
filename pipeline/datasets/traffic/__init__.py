"""What the traffic data sets share: slots, flows, context; and the simulated city."""
