"""What a run reports: metrics, time, pictures, trackers, messages."""
