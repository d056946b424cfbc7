// The rest of this module is generated into holdfast/ beside this file, from ../../proto: see Makefile.
