import ChangeFeed
import Testing
