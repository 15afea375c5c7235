"""What knows no task: clock, checks, threads, timers, words."""
