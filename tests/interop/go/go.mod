module muster.example/interop

go 1.26.0

// Older versions hand out hashes of some full tiles without holding them against the tile above.
require golang.org/x/mod v0.43.0
