"""What methods share: projections, calibration, statistics, and what they leave behind."""
