//! Packets for the tests of the parser, on the host and through BPF_PROG_TEST_RUN in the kernel.
