// AddressSanitizer's defaults, for every program of ours; what the environment says counts more.

// A quarantine of the default 256 MiB costs page faults only: this one holds what was freed for
// long enough. The stacks of allocations say enough with fewer frames than 30.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() {
  return "quarantine_size_mb=16:malloc_context_size=8";
}
