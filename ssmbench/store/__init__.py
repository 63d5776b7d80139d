"""Results on disk: the run folder, its ledger, its tables."""
