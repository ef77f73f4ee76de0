"""What the scheduler costs, measured beside a floor and its peers in one run. See docs/performance.md."""
