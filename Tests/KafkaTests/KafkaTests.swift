// To be written.
import Testing
