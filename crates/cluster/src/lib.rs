//! How the nodes of a cluster know, trust and reach each other.
