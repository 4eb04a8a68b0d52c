"""How results are judged: metrics, protocols, statistics, reports. Nothing here trains."""
