"""Pure decisions about one host: no clock, no files, no hypervisor."""
