// farside: the harness's command.
#include "harness/cli/command.h"

int main(int argc, char** argv) { return farside::cli::Main(argc, argv); }
