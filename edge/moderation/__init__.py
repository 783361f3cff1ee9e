"""What moderators set and decide, and what follows from it on every box. All of it is kept by the broker.

cabinet                 what is kept, and how it fails
rules                   this worker's copy of what is set, by watching
trail                   who did what when
desk                    modes, pins, lists, bans
retraction              comments that are to be shown no more
queue                   comments that wait for a moderator, and what was decided
look                    the classifier, and what its scores lead to
"""
