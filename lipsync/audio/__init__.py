"""Audio front ends: the Wav2Lip log-mel, the SyncNet v2 MFCC and mel windows."""
