"""False alarms: how often does gradguard report a bug in a correct gradient?"""
