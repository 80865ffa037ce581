"""Eyes: each family reads its targets within 5 s and never raises (DESIGN §5, FR-001). Probes change nothing."""
