"""From public math and code sets to one verified set of problems; see docs/data.md."""
