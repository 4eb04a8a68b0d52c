"""Abdominal CT volumes with liver and tumour labels: LiTS, and task 3 of the MSD."""
