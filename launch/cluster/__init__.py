"""Files and names that `launch.submit` gives to each platform."""
