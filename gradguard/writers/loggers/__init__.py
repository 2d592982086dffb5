"""Writers that hand the numbers of reports to experiment trackers, whose packages are imported when they are used."""
