// disk-proc: the storage controllers, and the disks behind them.

#include "devices/registry/registry.h"
#include "process/device_process.h"

int main(int argc, char** argv) {
  return farside::DeviceProcessMain("disk-proc", farside::DiskModels(), argc, argv);
}
